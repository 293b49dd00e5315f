"""The components that come with the core. They import what any plugin may, and are found as any plugin is."""
