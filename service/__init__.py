"""Assay: presigned uploads to MinIO that are proved before they can be read.

Read the packages in this order: `model` (what a file is), `files` and `uploads` (declare, sign,
record arrivals), `worker.verification` (claim, copy, hash, commit), `worker.sweeper` (remove what
is left behind), `downloads`, `events` (the history of files as it is written), `queries` (every SQL
statement) and `object_store` (every request to the store). `routes` and `cli` call these. `app` and
`worker.loop` put the pieces together.

See docs/architecture.md, "The life of a file" and "The source".
"""
