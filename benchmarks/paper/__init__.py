"""The paper's tables on real images: `python -m benchmarks.paper run|tune|report|evaluate --help`.

Protocols are data (`protocols`), a run is one `Spec` of them (`running`), its result one JSON file below
`benchmarks/results/paper/` that is committed. Checkpoints go to `build/benchmarks/` (or `--checkpoints`) and are not.
What has a result is not run again; what was interrupted goes on from its last committed round. Several commands may run
beside each other: each takes runs that nobody has in hand.
"""
