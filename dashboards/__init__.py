"""What people look at: pages and Grafana dashboards."""
