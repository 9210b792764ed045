"""Jobs on Kubernetes and on standing Ray clusters: manifests from recipes, and the client that submits and watches them."""
