"""The client: a coroutine beside the data. It fetches the model, runs the owner's functions, sends what they return."""
