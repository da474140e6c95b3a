"""Updates: messages applied to tables, and the freshness of those."""
