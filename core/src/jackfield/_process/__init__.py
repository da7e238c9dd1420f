"""A model in a process of its own: its runtime runs in a child, and a proxy stands for it here.

`proxy` and `child` belong to the server, `worker` to the child; `frames` and `link` are what they
talk by. The child imports the thin side only: no web server, no gRPC.
"""
