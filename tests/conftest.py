"""What all tests share. The plugin is named here too, for a checkout that is not installed."""

pytest_plugins = ["catga.testing.plugin"]
