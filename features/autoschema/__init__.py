"""A schema proposed from recorded events: `sample` reads some, `proposal` looks, `declaration` writes it as TOML."""
