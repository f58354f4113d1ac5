"""The site with a page of its own: the component, as a project would serve it."""

import os
from pathlib import Path

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.urls import path

from marketplace.urls import handler400, handler500, urlpatterns

__all__ = ["handler400", "handler500", "urlpatterns"]


@login_required
def monitor(request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        f'<!doctype html><meta charset="utf-8"><title>Monitor</title>'
        f'<div id="root" data-user="{request.user.pk}"></div><script src="/monitor.js"></script>'
    )


def bundle(request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        Path(os.environ["BROWSER_BUNDLE"]).read_bytes(), content_type="text/javascript"
    )


urlpatterns = [path("monitor/", monitor), path("monitor.js", bundle), *urlpatterns]
