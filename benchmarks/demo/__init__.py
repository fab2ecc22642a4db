"""The walk of docs/demo.md, run as it is written: `page` reads it (pure), `shell` runs commands, `python -m
benchmarks.demo` (`make demo`) walks."""
