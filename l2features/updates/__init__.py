"""Updates: what messages mean, which nodes they ask for, and what becomes of them."""
