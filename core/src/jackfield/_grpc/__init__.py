"""The gRPC shell: the Open Inference Protocol's service, and the messages that it speaks."""
