"""The coordinator: control plane of a workspace. It decides rounds, writes the journal, and touches no tensor."""
