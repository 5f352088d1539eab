from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Observation",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("task", models.CharField(max_length=64, db_index=True)),
                ("nest", models.CharField(max_length=64)),
                ("made", models.DateTimeField(auto_now_add=True)),
            ],
        )
    ]
