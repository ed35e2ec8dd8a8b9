def test_a_task_that_was_fitted_is_copied_by_cloudpickle(net):
    import cloudpickle

    task = ff.Task(net(), lambda logits, y: ff.losses.mse(logits, y), optax.adam(1e-2), penalty=ff.penalties.l2(1e-3))
    data = ff.Dataset(np.eye(4), np.arange(4.0))
    first = ff.fit(task, data, epochs=2)
    again = ff.fit(cloudpickle.loads(cloudpickle.dumps(task)), data, epochs=2)
    np.testing.assert_array_equal(again.history["loss"], first.history["loss"])
