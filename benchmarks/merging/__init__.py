"""What merging costs and gains: two children of one parent, trained apart, become one net again."""
