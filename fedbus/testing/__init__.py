"""For tests: of fedbus, of your app, of your plug-ins."""
