DROP TABLE usage_counted;
DROP TABLE account_usage;
