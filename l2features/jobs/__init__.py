"""Jobs of one machine: their options, and what the commands of each do."""
