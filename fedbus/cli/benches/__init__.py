"""`fedbus bench`: what rounds, folds, transfers and clients cost on this machine, beside a ceiling of the same run.

`rig` starts what is measured; `observer` runs a `case` on it and reads `meter` and `rounds`, the journal as times.
`raw` and `tcp` are the ceilings, `echoes` the clients, `gates` what may hold them, `expectation` what their federation
must come to. `echo`, `aggregate`, `transfer`, `clients` and `profile` are the benchmarks; `report` prints them.
"""
