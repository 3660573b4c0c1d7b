"""What Headrace is compared with: one module a system, all around `benchmarks.rivals.work`.

Each module has `run(options)`, which serves until the process is told to stop.
"""
