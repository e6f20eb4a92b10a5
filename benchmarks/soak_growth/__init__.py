"""A never-ending day: 200 mega-batches of several real domains over five nodes that come and go."""
