"""`fedbus bench`: what rounds, folds, transfers and clients cost on this machine, beside a ceiling of the same run.

`rig` starts what is measured and `meter` reads it; `rounds` is the journal as times. `raw` and `tcp` are the ceilings,
`echoes` the clients, `gates` what may hold them, `expectation` what their federation must come to. `echo`, `aggregate`,
`transfer`, `clients` and `profile` are the benchmarks; `report` prints them.
"""
