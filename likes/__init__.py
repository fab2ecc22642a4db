"""Who likes what: each user once, with counts that are counters. See docs/likes.md."""
