"""One expert whose shard drifts: what each update strategy keeps, learns and costs."""
