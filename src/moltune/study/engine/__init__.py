"""How a study is computed: plan, store, tasks, local workers, cluster."""
