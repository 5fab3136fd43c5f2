"""How people prove who they are: django-allauth, fitted to the portal."""
