"""Runs requests with boto3: one request a line on standard input, its reply a line on standard output.

The requests are those of operations.json; the Go test beside it resolves them, sends them here and judges the replies,
so that this client and the Go SDK run the same table.
"""

import datetime
import json
import re
import sys

import boto3
import botocore.config
import botocore.exceptions


def snake(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class Requests:
    def __init__(self, url, region):
        self.url, self.region, self.clients = url, region, {}

    def client(self, key, secret):
        if key not in self.clients:
            self.clients[key] = boto3.client(
                "transfer",
                endpoint_url=self.url,
                region_name=self.region,
                aws_access_key_id=key,
                aws_secret_access_key=secret,
                config=botocore.config.Config(retries={"total_max_attempts": 1}),
            )
        return self.clients[key]

    def call(self, client, r):
        operation = getattr(client, snake(r["Operation"]), None)
        if operation is None:
            return {"Refused": "this version does not know the operation"}
        return {"Output": clean(operation(**r["Params"] or {}))}

    def wait(self, client, r):
        waiter = client.get_waiter(snake(r["Operation"]))
        waiter.wait(WaiterConfig={"Delay": 0.02, "MaxAttempts": 3000}, **r["Params"])
        return {}

    def pages(self, client, r):
        name, params = snake(r["Operation"]), r["Params"] or {}
        if client.can_paginate(name):
            pages = client.get_paginator(name).paginate(PaginationConfig={"PageSize": r["Size"]}, **params)
            return {"Pages": [clean(p) for p in pages]}
        found, token = [], {}
        while True:
            page = clean(getattr(client, name)(MaxResults=r["Size"], **token, **params))
            found.append(page)
            if not page.get("NextToken"):
                return {"Pages": found}
            token = {"NextToken": page["NextToken"]}

    def run(self, r):
        try:
            client = self.client(r["Key"], r["Secret"])
            return getattr(self, r["Kind"])(client, r)
        except botocore.exceptions.ParamValidationError as e:
            return {"Refused": str(e)}
        except botocore.exceptions.ClientError as e:
            return failure(e.response)
        except botocore.exceptions.WaiterError as e:
            if "Error" in (e.last_response or {}):
                return failure(e.last_response)
            return {"Error": "Waiter", "Message": str(e)}


def failure(response):
    details = {k: response[k] for k in ("Resource", "ResourceType", "RetryAfterSeconds") if k in response}
    error = response["Error"]
    return {"Error": error["Code"], "Message": error.get("Message", ""), "Details": details}


def clean(response):
    response.pop("ResponseMetadata", None)
    return response


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError(type(value))


def main():
    requests = Requests(*sys.argv[1:])
    for line in sys.stdin:
        print(json.dumps(requests.run(json.loads(line)), default=plain), flush=True)


if __name__ == "__main__":
    main()
