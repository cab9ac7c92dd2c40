"""What the service costs, as ratios: each figure is two sides measured alternately in one run, over genuine MinIO.

    python -m tests.benchmarks [--quick] [--write] [NAME…]

`figures` has the words and the arithmetic, `ground` starts the servers, `load` and `hand` send requests; `neighbours` are what
ours is compared with; each other module is a group of rows.
"""
