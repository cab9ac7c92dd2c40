"""Assay: presigned uploads to MinIO that are proved before anyone can read them.

Read it in this order: `model` (what a file is), `files` and `uploads` (declare, sign, record arrivals), `worker.verification` (claim,
copy, hash, commit), `worker.sweeper` (what is left behind), `downloads`, `events` (what becomes of files, told as it happens); then
`queries` (every SQL statement) and `object_store` (every request to the store). `routes` and `cli` are the two ways in; `app` and
`worker.loop` put the pieces together.

See docs/architecture.md, "The life of a file" and "The source".
"""
