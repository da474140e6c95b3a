"""The updater over a long time: idle, hostile messages, growth."""
