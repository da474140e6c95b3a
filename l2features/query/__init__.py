"""Reading a data set: rows of nodes, those read before kept, and the answers that clients get."""
