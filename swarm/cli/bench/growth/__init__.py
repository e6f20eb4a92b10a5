"""`swarm bench alma` and `swarm bench hard-moe`: when growing, waiting and mixing pay, in plain processes."""
