"""Benchmarks that express the costs of the service as ratios.

For each figure, Assay and a reference are measured alternately, in one run, over genuine MinIO.

    python -m tests.benchmarks [--quick] [--write] [NAME…]

`figures` defines the terms and the arithmetic, `ground` starts the servers, `load` and `hand` send
requests, and `neighbours` has the applications that Assay is compared with. Each of the other
modules measures one group of rows.
"""
