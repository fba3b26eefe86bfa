"""A report: `record` and `clips` keep what an evaluation saw, `page` and `comparison` show it."""
