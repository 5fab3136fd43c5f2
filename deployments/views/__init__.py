"""Pages of deployments and the playground."""
