"""The URLs of likes, under `/v1/`.

`/v1/likes/users/USER` looks like an item of the type `users`, which is reserved. The longer paths come first, so a call that
has that type is told so.
"""

from django.urls import path

from counters.api import urls  # noqa: F401 - registers the converter
from likes.api import removals, views

urlpatterns = [
    path("likes/<any:type>/<any:item>/users/<any:user>", views.LikeView.as_view()),
    path("likes/<any:type>/<any:item>/users", views.LikersView.as_view()),
    path("likes/users/<any:user>", removals.UserView.as_view()),
    path("likes/<any:type>/<any:item>", views.ItemView.as_view()),
    path("likes/<any:type>", views.ItemsView.as_view()),
    path("likes", views.EventsView.as_view()),
    path("removals/<any:id>", removals.RemovalView.as_view()),
]
