"""A load generator for servers of the Open Inference Protocol; `jackfield bench` is its face.

Pure: `arrivals`, `histogram`, `tally` (what was seen), `loops` (what is sent when), `answers`,
`report`, `plot`. With I/O: `http` and `grpc` send, `timer` waits, `generator` runs one stage on an
event loop, `fleet` and `worker` share it among processes, `session` runs the stages in order.
Whatever is timed here is in integer nanoseconds of `time.monotonic_ns`, the same in all processes.
"""
