-- Health of Isochrone's kinds in Argo CD. All of them have the conditions Ready, Reconciling and
-- Stalled; an InferenceService also says whether a plan can keep its objectives (PlanAccepted). A missed
-- objective (SLOAttained) is no matter of what was applied: it is told, and changes no health.

local function condition(kind)
  for _, found in ipairs(obj.status.conditions or {}) do
    if found.type == kind then
      return found
    end
  end
  return nil
end

local function is(found, status)
  return found ~= nil and found.status == status
end

local function say(found)
  if found.message ~= nil and found.message ~= "" then
    return found.reason .. ": " .. found.message
  end
  return found.reason
end

local function health()
  local generation = obj.metadata.generation or 0
  if obj.status == nil or (obj.status.observedGeneration or -1) < generation then
    return "Progressing", "the operator has not looked at this version yet"
  end

  local stalled = condition("Stalled")
  if is(stalled, "True") then
    return "Degraded", say(stalled)
  end

  -- What is missing may still come, and approval be given; what is infeasible stays so, until somebody
  -- changes something.
  local accepted = condition("PlanAccepted")
  if is(accepted, "False") and accepted.reason == "PendingApproval" then
    return "Suspended", say(accepted)
  end
  if is(accepted, "False") and accepted.reason ~= "ProfileMissing" then
    return "Degraded", say(accepted)
  end

  local reconciling = condition("Reconciling")
  if is(reconciling, "True") then
    return "Progressing", say(reconciling)
  end
  local ready = condition("Ready")
  if is(ready, "True") and ready.reason == "Suspended" then
    return "Suspended", say(ready)
  end
  if is(ready, "True") then
    local attained = condition("SLOAttained")
    if is(attained, "False") then
      return "Healthy", "the latency objective is missed: " .. say(attained)
    end
    if accepted ~= nil and accepted.reason == "PendingApproval" then
      return "Healthy", say(accepted)
    end
    return "Healthy", say(ready)
  end
  if ready ~= nil then
    return "Progressing", say(ready)
  end
  return "Progressing", "the operator has not said yet whether this is ready"
end

local status, message = health()
return { status = status, message = message }
