"""Site values for every Pi. All settings, with units, defaults and reasons, are in
`celery_pi/settings.py`; what is not named here has its default. A value for one Pi alone stands
beside it in `inventory.py`."""

app_dir = "/var/www/observations_nids"
app_module = "observations_nids"
