from django.urls import path

from observations import views

urlpatterns = [
    path("", views.home),
    path("send", views.send),
    path("seen", views.seen),
]
