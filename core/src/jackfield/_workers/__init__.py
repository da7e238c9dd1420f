"""Several whole servers on the same ports, under a supervisor that serves nothing itself.

`supervisor` starts and watches the workers, `worker` is what each of them runs. They tell each
other `messages` by a `channel`. A change is made in all workers or in none (`changes`); what a
caller asks of the whole server, the worker that is asked puts together (`member`, `merge`).
"""
