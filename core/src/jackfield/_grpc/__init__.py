"""The gRPC shell: the servicer, its error table and its server."""
