"""What all resource APIs share: the base view, one error shape, pages."""
