"""A test that publishes edits while services fail, and checks that nothing is lost."""
