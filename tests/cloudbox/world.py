"""Where the box is: one account, one region, three zones, the same in every box."""

ACCOUNT = "123456789012"
REGION = "us-east-1"
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
