"""Assay: presigned uploads to MinIO that are proved before anyone can read them.

Read it in this order: `model` (what a file is), `uploads` (declare, sign, record arrivals), `verification` (claim, copy, hash,
commit), `sweeper` (what is left behind), `downloads`, `events` (what becomes of files, told as it happens); then `queries`
(every SQL statement) and `object_store` (every request to the store). `routes` and `cli` are the two ways in; `app` and
`worker` put the pieces together.
"""
