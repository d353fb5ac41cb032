"""Files into frozen dataclasses: instance files and the containers ecosystem's own configuration."""
