from django.db import models


class Observation(models.Model):
    task = models.CharField(max_length=64, db_index=True)
    nest = models.CharField(max_length=64)
    made = models.DateTimeField(auto_now_add=True)
