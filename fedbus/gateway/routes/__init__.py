"""The operations of REST, a module for each part of the control plane; `fedbus.gateway.table` puts them together."""
