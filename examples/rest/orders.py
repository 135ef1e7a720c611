"""Prints the orders of a shop, one JSON object a line, from the one after PITON_POSITION on.

The API is `GET $API/orders?after=ID&limit=N`, which answers {"orders": [...]} in the order of the
ids. API_TOKEN is sent as a bearer token, if it is set. Anything printed on standard error is shown
by `piton run`.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

PAGE = 100
TRIES = 5


def get(url):
    """The JSON behind a URL; tried again while the server is busy."""
    headers = {"Accept": "application/json"}
    if "API_TOKEN" in os.environ:
        headers["Authorization"] = "Bearer " + os.environ["API_TOKEN"]
    for attempt in range(TRIES):
        try:
            request = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 500, 502, 503, 504) or attempt + 1 == TRIES:
                raise
            print(f"{url}: HTTP {error.code}, trying again", file=sys.stderr)
        except urllib.error.URLError as error:
            if attempt + 1 == TRIES:
                raise
            print(f"{url}: {error.reason}, trying again", file=sys.stderr)
        time.sleep(0.1 * 2**attempt)


def main():
    after = int(os.environ.get("PITON_POSITION", "0"))
    while True:
        page = get(f"{os.environ['API']}/orders?after={after}&limit={PAGE}")["orders"]
        if not page:
            return
        for order in page:
            print(json.dumps(order))
        # Whole pages at once: what is printed can be saved.
        sys.stdout.flush()
        after = page[-1]["id"]


main()
