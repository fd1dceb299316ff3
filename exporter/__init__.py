"""Makes a Klaviyo list equal to a Dynamics 365 Customer Insights segment.

Read in the order of the story: snapshots and settling (what arrived), reading (its bytes), mapping and planning (what
to send), sending and confirming (what Klaviyo took), runs (the record of it), service (the one that orders these).
"""
