"""The REST shell: routes, errors and the servers that run the app."""
