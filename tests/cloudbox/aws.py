"""How a program is made to take the box for its cloud."""

import importlib
import os
from typing import Any

KEY = "cloudbox"


def env(endpoint: str, region: str) -> dict[str, str]:
    """For the environment of a process that uses boto3 or aiobotocore."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "*",
        "no_proxy": "*",
    }


def client(service: str, endpoint: str, region: str) -> Any:
    """A boto3 client that does not repeat calls on its own."""
    boto3, config = importlib.import_module("boto3"), importlib.import_module("botocore.config")
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=KEY,
        aws_secret_access_key=KEY,
        config=config.Config(retries={"total_max_attempts": 1}, proxies={}),
    )
