"""From what was asked for to what is opened: settings, and robots, backends and bundles by name."""
